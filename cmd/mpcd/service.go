package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/mpcd/mpcd/internal/custody"
	"github.com/mpcd/mpcd/internal/preparams"
	"github.com/mpcd/mpcd/internal/seal"
	"github.com/mpcd/mpcd/internal/server"
	"github.com/mpcd/mpcd/internal/session"
	"github.com/mpcd/mpcd/internal/store"
)

// service is a wired service: everything between a database and a server.
type service struct {
	store    *store.Store
	sessions *session.Service
	server   *server.Server
}

// openService wires the rooms together. The caller closes it.
func openService(ctx context.Context, db string, keyset *seal.Keyset, cfg session.Config, auth server.Authenticator, log *slog.Logger) (*service, error) {
	st, err := store.Open(ctx, db)
	if err != nil {
		return nil, err
	}
	sealer, err := seal.New(ctx, keyset, st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	keeper := custody.NewManaged(sealer)
	sessions, err := session.New(ctx, session.Ports{
		Wallets: st, Sessions: st, Sealer: sealer, Halves: keeper, Custodian: keeper, PreParams: preparams.Fresh{}, Log: log,
	}, cfg)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &service{store: st, sessions: sessions, server: server.New(sessions, auth, log)}, nil
}

// Close ends running sessions and closes the database.
func (s *service) Close() error {
	s.sessions.Close()
	if err := s.store.Close(); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// devCaller is everybody, on a service without authentication: it has every right.
func devCaller(context.Context) (session.Caller, error) {
	return session.Caller{Name: "dev", Scopes: []session.Scope{session.ScopeRead, session.ScopeWrite, session.ScopeSign, session.ScopeAdmin}}, nil
}
