package est

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/birthmark/birthmark/internal/identity/enroll"
	"github.com/birthmark/birthmark/internal/pki/cms"
)

// boundary cannot stand in a part: base64 has no dashes.
const boundary = "birthmark-part"

// writeKey sends the two parts of RFC 7030, section 4.4.2: the private key, as it
// is or encrypted, and the certificate as /simpleenroll answers it.
func writeKey(w http.ResponseWriter, answer *enroll.KeyResponse) {
	kind, key := "application/pkcs8", answer.Key
	if answer.Sealed != nil {
		kind, key = "application/pkcs7-mime; smime-type=server-generated-key", answer.Sealed
	}
	first := encode(key, answer.Wrap)
	body := appendPart(nil, kind, first)
	body = appendPart(body, certsOnly, encode(cms.CertsOnly(answer.Credential.DER), answer.Wrap))
	body = fmt.Appendf(body, "--%s--\r\n", boundary)
	h := w.Header()
	h["Content-Type"] = []string{"multipart/mixed; boundary=" + boundary}
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body) // the peer is gone: the certificate is on record, and nobody has its key
	clear(first)
	clear(body)
}

func appendPart(body []byte, kind string, content []byte) []byte {
	body = fmt.Appendf(body, "--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n\r\n", boundary, kind)
	return append(append(body, content...), '\r', '\n')
}
