package store

import (
	"context"

	"github.com/birthmark/birthmark/internal/fault"
	"github.com/birthmark/birthmark/internal/identity/access"
	"github.com/birthmark/birthmark/internal/identity/device"
	"github.com/birthmark/birthmark/internal/identity/factory"
	"github.com/birthmark/birthmark/internal/identity/ledger"
)

const stationColumns = `id, name, site, state, version, code_hash, code_expires_at, code_spent_at, code_spki,
credential, created_at, changed_at`

func scanStation(r row) (factory.Station, error) {
	var x factory.Station
	err := r.Scan(&x.ID, &x.Name, &x.Site, &x.State, &x.Version, fixed(x.Code.Hash[:]), at(&x.Code.ExpiresAt), at(&x.Code.SpentAt),
		fixed(x.Code.SpentSPKI[:]), &x.Credential, at(&x.CreatedAt), at(&x.ChangedAt))
	return x, err
}

// digestOrNull is a digest for a column that is NULL where there is none.
func digestOrNull(d *[32]byte) []byte {
	if *d == [32]byte{} {
		return nil
	}
	return d[:]
}

// AddStation stores a new station: fault.StationExists when its name is taken,
// fault.SiteUnknown when its site is not there.
func (s *Store) AddStation(ctx context.Context, x factory.Station, entries ...ledger.Entry) (id int64, err error) {
	err = s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		if there, err := exists(ctx, t, "site", x.Site); err != nil || !there {
			return orFault(err, fault.SiteUnknown)
		}
		if taken, err := nameTaken(ctx, t, "station", x.Name, 0); err != nil || taken {
			return orFault(err, fault.StationExists, x.Name)
		}
		if id, err = nextID(ctx, t, "station"); err != nil {
			return err
		}
		_, err := t.exec(ctx, "INSERT INTO station ("+stationColumns+") VALUES ("+placeholders(12)+")",
			id, x.Name, x.Site, x.State, x.Version, digestOrNull(&x.Code.Hash), x.Code.ExpiresAt, x.Code.SpentAt,
			digestOrNull(&x.Code.SpentSPKI), x.Credential, x.CreatedAt, x.ChangedAt)
		return err
	}, entries...)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// orFault is err, or the fault if there was no error.
func orFault(err error, c fault.Code, details ...any) error {
	if err != nil {
		return err
	}
	return fault.New(c, details...)
}

// Station returns a station, or fault.StationUnknown.
func (s *Store) Station(ctx context.Context, scope access.Scope, id int64) (factory.Station, error) {
	return s.station(ctx, scope, "id = $1", id)
}

// StationByName returns the station with this name. Index: the unique one of
// name.
func (s *Store) StationByName(ctx context.Context, scope access.Scope, name string) (factory.Station, error) {
	return s.station(ctx, scope, "name = $1", name)
}

// StationByCode returns the station whose one-time code has this SHA-256, spent,
// expired or not. Index station_code.
func (s *Store) StationByCode(ctx context.Context, codeHash [32]byte) (factory.Station, error) {
	return s.station(ctx, access.Everything(), "code_hash = $1", codeHash[:])
}

func (s *Store) station(ctx context.Context, scope access.Scope, which string, arg any) (factory.Station, error) {
	x, err := scanStation(s.read.row(ctx, "SELECT "+stationColumns+" FROM station WHERE "+which+siteScope(scope, "site"), arg))
	if noRows(err) {
		return factory.Station{}, fault.New(fault.StationUnknown)
	}
	return x, err
}

// Stations returns the stations in scope, by id.
func (s *Store) Stations(ctx context.Context, scope access.Scope) ([]factory.Station, error) {
	return readStations(ctx, s.read, scope)
}

func readStations(ctx context.Context, q querier, scope access.Scope) ([]factory.Station, error) {
	var all []factory.Station
	err := each(q.query(ctx, "SELECT "+stationColumns+" FROM station WHERE id > 0"+siteScope(scope, "site")+" ORDER BY id"))(func(r row) error {
		x, err := scanStation(r)
		all = append(all, x)
		return err
	})
	return all, err
}

// UpdateStation writes state and code if the row still has x.Version, and raises
// the version; device.ErrStale otherwise.
func (s *Store) UpdateStation(ctx context.Context, x factory.Station, entries ...ledger.Entry) error {
	return s.write(ctx, func(t *tx) error {
		if err := t.bumpControl(ctx); err != nil {
			return err
		}
		n, err := t.exec(ctx, `UPDATE station SET state = $3, code_hash = $4, code_expires_at = $5, code_spent_at = $6, code_spki = $7,
changed_at = $8, version = version + 1 WHERE id = $1 AND version = $2`,
			x.ID, x.Version, x.State, digestOrNull(&x.Code.Hash), x.Code.ExpiresAt, x.Code.SpentAt, digestOrNull(&x.Code.SpentSPKI), x.ChangedAt)
		if err != nil || n == 1 {
			return err
		}
		there, err := exists(ctx, t, "station", x.ID)
		if err != nil || !there {
			return orFault(err, fault.StationUnknown)
		}
		return device.ErrStale
	}, entries...)
}
