package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/ledger"
	"github.com/birthmark/birthmark/internal/store"
)

type backupCmd struct {
	remote `embed:""`
	File   string `arg:"" help:"File to write; it must not exist."`
}

// Run writes a backup of everything, keys included, and reads it back.
func (c *backupCmd) Run(ctx context.Context, io_ *streams) error {
	f, err := os.OpenFile(c.File, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.Wrap(fault.ParameterInvalid, err, "the file cannot be made")
	}
	err = c.with(ctx, func(a *api) error {
		resp, err := a.send(ctx, http.MethodGet, "/system/backup", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(f, resp.Body)
		return err
	})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(c.File))
	}
	info, err := checkBackup(c.File)
	if err != nil {
		return errors.Join(err, os.Remove(c.File))
	}
	if c.JSON {
		return printJSON(io_.out, map[string]any{"file": c.File, "bytes": info.Bytes, "ledger_size": info.LedgerSize, "sha256": fmt.Sprintf("%x", info.Digest)})
	}
	fmt.Fprintf(io_.out, "Wrote %s: %d octets, %d ledger entries, SHA-256 %x.\nIt holds the encrypted keys, but not their passphrases.\n", c.File, info.Bytes, info.LedgerSize, info.Digest)
	return nil
}

func checkBackup(path string) (store.BackupInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return store.BackupInfo{}, fault.Wrap(fault.BackupInvalid, err)
	}
	defer f.Close()
	return store.VerifyBackup(f)
}

// backup writes the database and the key files.
func (n *node) backup(ctx context.Context, actor string, w io.Writer) (err error) {
	names, err := filepath.Glob(filepath.Join(n.folder.keys(), "*"))
	if err != nil {
		return err
	}
	names = append(names, n.folder.root(), n.folder.bundle())
	var files []store.BackupFile
	for _, name := range names {
		f, openErr := os.Open(name)
		if openErr != nil {
			return openErr
		}
		defer f.Close()
		relative, relErr := filepath.Rel(string(n.folder), name)
		if relErr != nil {
			return relErr
		}
		files = append(files, store.BackupFile{Name: filepath.ToSlash(relative), Content: f})
	}
	_, err = n.store.Backup(ctx, w, files, func(info store.BackupInfo) []ledger.Entry {
		return []ledger.Entry{{Kind: ledger.BackupMade, At: time.Now(), Actor: actor, Body: ledger.JSON(map[string]any{
			"ledger_size": info.LedgerSize, "sha256": fmt.Sprintf("%x", info.Digest), "bytes": info.Bytes,
		})}}
	})
	return err
}

type restoreCmd struct {
	Data           string `help:"Data folder to make; it must be empty or absent." required:"" env:"BIRTHMARK_DATA" type:"path"`
	Database       string `help:"Empty database to fill (default: SQLite in the data folder)." env:"BIRTHMARK_DATABASE"`
	PassphraseFile string `help:"File with the passphrase of the keys that the server opens by itself; it is copied into the data folder." required:"" placeholder:"FILE"`
	File           string `arg:"" help:"Backup."`
	JSON           bool   `help:"Print JSON."`
}

// Run makes a data folder from a backup. Nothing is written before the whole
// backup has been checked.
func (c *restoreCmd) Run(ctx context.Context, io_ *streams) error {
	if entries, err := os.ReadDir(c.Data); err == nil && len(entries) > 0 {
		return fault.New(fault.DataFolderState, c.Data, "is not empty")
	}
	secret, err := readSecret(c.PassphraseFile)
	if err != nil {
		return err
	}
	if _, err := checkBackup(c.File); err != nil {
		return err
	}
	f, err := os.Open(c.File)
	if err != nil {
		return fault.Wrap(fault.BackupInvalid, err)
	}
	defer f.Close()
	to := folder(c.Data)
	for _, dir := range []string{string(to), to.keys(), filepath.Dir(to.passphrase())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := writeFile(to.passphrase(), append(secret, '\n'), 0o600); err != nil {
		return err
	}
	settings := Settings{Data: c.Data, Database: c.Database}
	db, err := store.Open(ctx, store.Config{
		DSN: settings.databaseDSN(), Node: "restore", Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	info, err := db.Restore(ctx, f, store.Restoration{
		File: to.restoreFile,
		Entries: func(info store.BackupInfo) []ledger.Entry {
			return []ledger.Entry{{Kind: ledger.BackupRestored, At: time.Now(), Actor: "system", Body: ledger.JSON(map[string]any{
				"ledger_size": info.LedgerSize, "sha256": fmt.Sprintf("%x", info.Digest),
			})}}
		},
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(io_.out, map[string]any{"data": c.Data, "ledger_size": info.LedgerSize})
	}
	fmt.Fprintf(io_.out, "Restored %s as of %s. One-time secrets that were not used are dead; make new ones where needed.\n", c.Data, day(info.MadeAt))
	return nil
}

// restoreFile writes a file of the backup, which must lie below the folder.
func (f folder) restoreFile(name string, content io.Reader) error {
	if !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, "\\") {
		return fault.New(fault.BackupInvalid, "it names a file outside the data folder")
	}
	path := filepath.Join(string(f), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(content, 1<<20))
	if err != nil {
		return err
	}
	return writeFile(path, raw, 0o600)
}
