package manifest_test

import (
	"encoding/asn1"
	"encoding/hex"
	"strconv"
	"strings"
)

func oids(dotted string) []asn1.ObjectIdentifier {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			panic(err)
		}
		oid = append(oid, n)
	}
	return []asn1.ObjectIdentifier{oid}
}

// rsaCertificate holds a key of the size that endorsement keys have; nobody has
// its private part.
const rsaCertificate = `-----BEGIN CERTIFICATE-----
MIIC/TCCAeWgAwIBAgIUO9O/zS0gFYj5gXuPET71jQeOXK0wDQYJKoZIhvcNAQEL
BQAwDTELMAkGA1UEAwwCRUswIBcNMjYxMTIyMDYxODAzWhgPMjEyNjEwMjkwNjE4
MDNaMA0xCzAJBgNVBAMMAkVLMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKC
AQEAsbeqcaTJhBUfhZWYZva7zngx/9fJOvBSL1pKxISl06QTn6qjdFhNjkvdhxN+
/QSA+vxjg3aV12UZWtqRcAdUxEsTjZj2jVhE3dOCtce1QO7VDKTS2OHxoc0QPMxK
ZpIUJrcc3hx88Th4J9EFP8+R0slNQObWCWjYLqHotu2m53wxyBgrjqWrFeN/qz8w
YoWC5pgsoc2O3iDGq6DYRJwC4fKkXjQmcruYwDmXCQKJdhqtZM3/TvjYbK3rdB6Q
kvBFI6r7VQz09A4ZXE4XvesPa9d9EQVwXoDdtvazpsa/5WugGcjiVARm4INeMbw4
9b3hQdvdtmnmCVFq8dltbgv3nQIDAQABo1MwUTAdBgNVHQ4EFgQU3MjOrxZBzso9
/APLc1f8dDUorSMwHwYDVR0jBBgwFoAU3MjOrxZBzso9/APLc1f8dDUorSMwDwYD
VR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsFAAOCAQEAGR/9rDpOw7NIFeTfyIXv
3wBHSGqKhFIXFh3kiuLNYRt/MCEuAsn1JmqsO+IoPRTGxA0956phDPiKmOT8Vgm2
qJE+hQ2HSo3YfhGoHhdGHZ24+ISgSRu+w6K3z7bTdnrxZVT/iMETncyeK0dOWhZy
CGqnVkFekhjckn24+OAfutQgc09HXOQW6aLlsgABqMrF5X66wdU6UxpN9X3/Xc1+
VZn50US6+YBYP/2cTnEcYqLG9bSy+zpouAVIAhpMN+4N2btwJZzK1IdqAZvYHAxR
jmKgMAfWhw3IYm22nF/kjtubPEfiB45ul9chonSnCnAxg3YMISnFdkwG8GKVKEKB
2w==
-----END CERTIFICATE-----
`

func hexOf(b []byte) []byte { return hex.AppendEncode(nil, b) }
