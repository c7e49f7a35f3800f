package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/authority"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/pki/keystore"
	"github.com/birthmark/birthmark/internal/pki/lint"
	"github.com/birthmark/birthmark/internal/pki/profile"
)

// installation says what init makes.
type installation struct {
	organization string
	statusURL    string
	quickstart   bool
	keyType      profile.KeyType
	root         keystore.Secret // passphrase of the root's key
	// rootCertificate is of a root whose key is elsewhere; nil: one is made.
	rootCertificate []byte
	// rootKey and issuingKey are keys in the signer (signer:NAME); empty: new files.
	rootKey, issuingKey string
	operator            string // local user who becomes the first administrator
}

// wrapSuffix is what a label's name ends in whose replies are broken into lines
// of 64 characters, as libest wants them.
const wrapSuffix = "-wrap64"

// install makes everything a new data folder needs. Each step finds what an
// interrupted run has left, so the same call finishes it.
func (n *node) install(ctx context.Context, i installation) error {
	if i.statusURL != "" {
		if err := lint.StatusURL(i.statusURL, i.quickstart); err != nil {
			return err
		}
	}
	actor := "local:" + i.operator
	if err := n.record(ctx, actor, i); err != nil {
		return err
	}
	if err := n.makePassphrase(); err != nil {
		return err
	}
	if err := n.makeLedgerKey(ctx); err != nil {
		return err
	}
	if err := n.makeAuthorities(ctx, actor, i); err != nil {
		return err
	}
	if err := n.authority.ImportPresets(ctx, actor); err != nil {
		return err
	}
	if err := n.makeLabels(ctx, actor); err != nil {
		return err
	}
	if err := n.access.Bootstrap(ctx, i.operator); err != nil {
		return err
	}
	return n.writeAnchors(ctx)
}

func (n *node) record(ctx context.Context, actor string, i installation) error {
	row := authority.Installation{Organization: i.organization, StatusURL: i.statusURL, Quickstart: i.quickstart, CreatedAt: time.Now()}
	if _, err := rand.Read(row.ID[:]); err != nil {
		return err
	}
	have, err := n.store.Installation(ctx)
	if err == nil {
		if have.Organization != i.organization || have.StatusURL != i.statusURL {
			return fault.New(fault.DataFolderState, "it belongs to an installation with other settings")
		}
		return nil
	}
	if !fault.Has(err, fault.DataFolderState) {
		return err
	}
	return n.store.Install(ctx, row, ledger.Entry{
		Kind: ledger.Installed, At: row.CreatedAt, Actor: actor,
		Body: ledger.JSON(map[string]string{"installation": fmt.Sprintf("%x", row.ID), "organization": i.organization, "status_url": i.statusURL}),
	})
}

// makePassphrase writes the passphrase of the issuing keys, unless it is kept
// elsewhere or there already.
func (n *node) makePassphrase() error {
	if n.settings.PassphraseFile != "" {
		return nil
	}
	if _, err := os.Stat(n.folder.passphrase()); err == nil {
		return nil
	}
	return writeFile(n.folder.passphrase(), append(keystore.NewPassphrase(rand.Reader), '\n'), 0o600)
}

func (n *node) makeAuthorities(ctx context.Context, actor string, i installation) error {
	if i.rootCertificate != nil {
		return n.awaitIssuing(ctx, actor, i)
	}
	_, err := n.authority.CreateRoot(ctx, actor, i.newAuthority("root", i.rootKey, i.root))
	if err != nil && !fault.Has(err, fault.AuthorityExists) {
		return err
	}
	session, err := n.authority.OpenRoot(ctx, "root", i.root)
	if err != nil {
		return err
	}
	defer session.Close()
	secret, err := n.secret("file:issuing")
	if err != nil {
		return err
	}
	_, err = session.CreateIssuing(ctx, actor, i.newAuthority("issuing", i.issuingKey, secret))
	if err != nil && !fault.Has(err, fault.AuthorityExists) {
		return err
	}
	if _, err := session.CreateResponder(ctx, actor); err != nil {
		return err
	}
	return n.status.SignRootCRL(ctx, actor, session)
}

// newAuthority is an authority with a new file as its key, or one in the signer,
// whose type is what it is.
func (i *installation) newAuthority(name, key string, secret keystore.Secret) authority.NewAuthority {
	if key != "" {
		return authority.NewAuthority{Name: name, KeyURI: key}
	}
	return authority.NewAuthority{Name: name, KeyType: i.keyType, Secret: secret}
}

// awaitIssuing takes in a root whose key is elsewhere, makes the issuing
// authority's key, and writes the request for that root to sign.
func (n *node) awaitIssuing(ctx context.Context, actor string, i installation) error {
	_, err := n.authority.Import(ctx, actor, authority.Existing{Name: "root", Certificate: i.rootCertificate})
	if err != nil && !fault.Has(err, fault.AuthorityExists) {
		return err
	}
	secret, err := n.secret("file:issuing")
	if err != nil {
		return err
	}
	csr, err := n.authority.RequestIssuing(ctx, actor, i.newAuthority("issuing", i.issuingKey, secret))
	if err != nil {
		return err
	}
	return writeFile(n.folder.csr(), requestPEM(csr), 0o644)
}

func requestPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// completed gives an installation whose issuing authority has got its
// certificate what init could not: labels for its profiles.
func (n *node) completed(ctx context.Context, actor string) error {
	plane, err := n.authority.Snapshot(ctx)
	if err != nil {
		return err
	}
	if len(plane.Labels()) == 0 {
		if err := n.makeLabels(ctx, actor); err != nil {
			return err
		}
	}
	return n.writeAnchors(ctx)
}

// makeLabels gives each device profile a label of its name, and one whose
// replies are broken into lines.
func (n *node) makeLabels(ctx context.Context, actor string) error {
	plane, err := n.authority.Snapshot(ctx)
	if err != nil {
		return err
	}
	for _, road := range plane.Roads() {
		if road.Err() != nil || !road.Profile.Kind.Device() {
			continue
		}
		name := road.Profile.Name
		for _, l := range []authority.Label{{Name: name, Profile: name}, {Name: name + wrapSuffix, Profile: name, Wrap: 64}} {
			if _, there := plane.Label(l.Name); there {
				continue
			}
			if err := n.authority.SetLabel(ctx, actor, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeAnchors writes the root and the bundle of all authorities beside the
// keys, for devices and scripts.
func (n *node) writeAnchors(ctx context.Context) error {
	plane, err := n.authority.Snapshot(ctx)
	if err != nil {
		return err
	}
	root, err := plane.Authority("root")
	if err != nil {
		return err
	}
	if err := writeFile(n.folder.root(), certificatePEM(root.Certificate), 0o644); err != nil {
		return err
	}
	return writeFile(n.folder.bundle(), bundlePEM(plane), 0o644)
}

// bundlePEM returns all authorities that can be trusted, roots last.
func bundlePEM(plane *authority.Snapshot) []byte {
	var issuing, roots bytes.Buffer
	for _, m := range plane.Trusted() {
		if m.Kind == authority.Root {
			roots.Write(certificatePEM(m.Certificate))
			continue
		}
		issuing.Write(certificatePEM(m.Certificate))
	}
	return append(issuing.Bytes(), roots.Bytes()...)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// writeFile writes a whole file or nothing, and survives a power cut once it
// has returned.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
