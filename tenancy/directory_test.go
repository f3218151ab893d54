package tenancy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

func TestDirectory_Authenticate(t *testing.T) {
	h := newHouse(t)
	k := h.key(h.admin, "tnt_b", tenancy.KeyCreate{
		PrincipalID: "usr_b", PrincipalType: tenancy.User, Roles: []tenancy.Role{tenancy.RoleTenantUser},
		Scopes: []tenancy.Scope{tenancy.RunsRead, tenancy.RunsCreate}, PolicyContext: tenancy.PolicyContext{Region: "eu"},
	})
	if !strings.HasPrefix(k.Secret, "aos_") || len(k.Secret) != 4+43 {
		t.Fatalf("secret of %d bytes", len(k.Secret))
	}
	want := &tenancy.Auth{
		TenantID: "tnt_b", HomeTenantID: "tnt_b", KeyID: k.ID,
		Principal: tenancy.Principal{ID: "usr_b", Type: tenancy.User},
		Scopes:    []tenancy.Scope{tenancy.RunsCreate, tenancy.RunsRead}, Roles: []tenancy.Role{tenancy.RoleTenantUser},
		PolicyContext: tenancy.PolicyContext{Region: "eu"},
	}
	if d := cmp.Diff(want, h.auth(k.Secret)); d != "" {
		t.Fatal(d)
	}
	for _, bad := range []string{"", "aos_", k.Secret + "x", k.Secret[:len(k.Secret)-1], strings.ToUpper(k.Secret), tenancy.HashSecret(k.Secret), strings.Repeat("a", 1<<20)} {
		_, err := h.dir.Authenticate(h.ctx, bad, tenancy.Source{IP: "192.0.2.2"})
		h.refused(err, fault.Unauthorized)
	}
}

// Nothing in the store holds a secret.
//
// Requirements: T1.
func TestDirectory_HashesOnly(t *testing.T) {
	h := newHouse(t)
	k := h.key(h.admin, "tnt_b", tenancy.KeyCreate{})
	rotated, _, _, err := h.dir.RotateKey(h.ctx, h.admin, "tnt_b", k.ID, time.Hour)
	h.ok(err)
	h.view(func(s storage.Snapshot) error {
		return s.Scan(storage.Range{}, func(key string, value []byte) bool {
			for _, secret := range []string{k.Secret, rotated.Secret} {
				if part := []byte(secret[4:20]); strings.Contains(key, string(part)) || bytes.Contains(value, part) {
					t.Errorf("%s holds a secret", key)
				}
			}
			return true
		})
	})
}

// Requirements: T1.
func TestDirectory_KeyLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		works := func(secret string, want bool) {
			t.Helper()
			_, err := h.dir.Authenticate(h.ctx, secret, tenancy.Source{})
			if want {
				h.ok(err)
			} else {
				h.refused(err, fault.Unauthorized)
			}
		}
		ends := time.Now().Add(time.Hour)
		k := h.key(h.admin, "tnt_b", tenancy.KeyCreate{ExpiresAt: &ends})
		time.Sleep(time.Hour - time.Nanosecond)
		works(k.Secret, true)
		time.Sleep(time.Nanosecond)
		works(k.Secret, false)
		_, _, _, err := h.dir.RotateKey(h.ctx, h.admin, "tnt_b", k.ID, 0)
		h.refused(err, fault.Conflict)

		one := h.key(h.admin, "tnt_b", tenancy.KeyCreate{})
		two, _, _, err := h.dir.RotateKey(h.ctx, h.admin, "tnt_b", one.ID, time.Minute)
		h.ok(err)
		three, _, _, err := h.dir.RotateKey(h.ctx, h.admin, "tnt_b", one.ID, 30*time.Second)
		h.ok(err)
		works(one.Secret, true)
		works(two.Secret, true)
		works(three.Secret, true)
		time.Sleep(30 * time.Second)
		works(one.Secret, false)
		works(two.Secret, false)
		works(three.Secret, true)
		four, _, _, err := h.dir.RotateKey(h.ctx, h.admin, "tnt_b", one.ID, 0)
		h.ok(err)
		works(three.Secret, false)
		works(four.Secret, true)
		if four.ID != one.ID {
			t.Fatalf("the key's id became %s", four.ID)
		}
		_, err = h.dir.RevokeKey(h.ctx, h.admin, "tnt_b", one.ID)
		h.ok(err)
		works(four.Secret, false)
		_, err = h.dir.RevokeKey(h.ctx, h.admin, "tnt_b", one.ID)
		h.refused(err, fault.NotFound)
		want := []string{"tenant.create", "key.issue", "key.issue", "key.rotate", "key.rotate", "key.rotate", "key.revoke"}
		if d := cmp.Diff(want, h.actions("tnt_b")); d != "" {
			t.Fatal(d)
		}
		h.view(func(s storage.Snapshot) error {
			left := 0
			err := s.Scan(storage.Prefix("key/"), func(string, []byte) bool { left++; return true })
			if left != 2 { // the platform admin's, and the one that expired
				t.Errorf("%d credentials are left", left)
			}
			return err
		})
	})
}

func TestDirectory_DisabledTenant(t *testing.T) {
	h := newHouse(t)
	root := h.key(h.admin, "tnt_a", tenancy.KeyCreate{Roles: []tenancy.Role{tenancy.RolePlatformAdmin}})
	b := h.key(h.admin, "tnt_b", tenancy.KeyCreate{})
	for _, id := range []string{"tnt_a", "tnt_b"} {
		_, _, _, err := h.dir.SetTenantStatus(h.ctx, h.admin, id, tenancy.Disabled)
		h.ok(err)
	}
	_, err := h.dir.Authenticate(h.ctx, b.Secret, tenancy.Source{})
	h.refused(err, fault.Forbidden)
	enabler := tenancy.Actor{Auth: h.auth(root.Secret)} // its home is disabled, and yet it may
	_, _, _, err = h.dir.SetTenantStatus(h.ctx, enabler, "tnt_b", tenancy.Active)
	h.ok(err)
	h.auth(b.Secret)
}

func TestDirectory_ActFor(t *testing.T) {
	h := newHouse(t)
	same, err := h.dir.ActFor(h.admin.Auth, "tnt_a")
	if h.ok(err); same != h.admin.Auth {
		t.Fatal("acting for oneself is another")
	}
	acting, err := h.dir.ActFor(h.admin.Auth, "tnt_b")
	h.ok(err)
	if acting.TenantID != "tnt_b" || acting.HomeTenantID != "tnt_a" || h.admin.Auth.TenantID != "tnt_a" {
		t.Fatalf("got %+v", acting)
	}
	_, err = h.dir.ActFor(h.admin.Auth, "tnt_none")
	h.refused(err, fault.NotFound)

	person := h.key(h.admin, "tnt_a", tenancy.KeyCreate{PrincipalType: tenancy.User, Roles: []tenancy.Role{tenancy.RolePlatformAdmin}})
	narrowed := h.key(h.admin, "tnt_a", tenancy.KeyCreate{Roles: []tenancy.Role{tenancy.RolePlatformAdmin}, Scopes: []tenancy.Scope{tenancy.RunsRead}})
	for name, auth := range map[string]*tenancy.Auth{
		"tenant admin": h.actor("tnt_a", tenancy.RoleTenantAdmin).Auth, "person": h.auth(person.Secret), "narrowed": h.auth(narrowed.Secret),
	} {
		for _, other := range []string{"tnt_b", "tnt_none", "TNT_A", "tnt_a "} {
			if _, err := h.dir.ActFor(auth, other); !fault.Is(err, fault.Forbidden) {
				t.Errorf("%s acts for %q: %v", name, other, err)
			}
		}
	}
}

// A source that fails often has to wait; whoever holds a good key never has to, wherever it comes from.
//
// Requirements: T1.
func TestDirectory_BruteForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		synctest.Wait()
		good := h.key(h.admin, "tnt_b", tenancy.KeyCreate{})
		from := tenancy.Source{IP: "2001:db8::1"}
		try := func(i int, from tenancy.Source) error {
			_, err := h.dir.Authenticate(h.ctx, fmt.Sprintf("aos_guess%d", i), from)
			return err
		}
		var first *fault.Error
		for i := range 1000 {
			if err := try(i, from); fault.Is(err, fault.RateLimited) {
				first = fault.Of(err)
				if i < 20 {
					t.Fatalf("refused after %d", i)
				}
				break
			}
		}
		if first == nil || first.RetryAfter <= 0 {
			t.Fatalf("1000 guesses, and no end: %+v", first)
		}
		h.refused(try(0, tenancy.Source{IP: "2001:db8::ffff:1"}), fault.RateLimited) // the same host's network
		h.refused(try(0, tenancy.Source{IP: "2001:db8:0:1::1"}), fault.Unauthorized)
		_, err := h.dir.Authenticate(h.ctx, strings.Repeat("x", 1000), from)
		h.refused(err, fault.RateLimited) // nor do secrets count that are too long to be looked at
		if _, err := h.dir.Authenticate(h.ctx, good.Secret, from); err != nil {
			t.Fatalf("the owner is locked out: %v", err)
		}
		time.Sleep(first.RetryAfter)
		h.refused(try(0, from), fault.Unauthorized)

		ends := time.Now().Add(time.Second)
		old := h.key(h.admin, "tnt_b", tenancy.KeyCreate{ExpiresAt: &ends})
		time.Sleep(time.Second)
		limited := false
		for range 1000 {
			_, err := h.dir.Authenticate(h.ctx, old.Secret, tenancy.Source{IP: "192.0.2.9"})
			limited = limited || fault.Is(err, fault.RateLimited)
		}
		if !limited {
			t.Fatal("an expired key may fail for ever")
		}
	})
}

// flaky is a store whose views can be counted and held up.
type flaky struct {
	storage.Store
	views atomic.Int64
	hold  atomic.Pointer[chan struct{}]
	fail  atomic.Bool
}

func (f *flaky) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	if r.Consistency == storage.Linearizable {
		f.views.Add(1)
	}
	if f.fail.Load() {
		return fault.New(fault.Unavailable, "no quorum")
	}
	hold := f.hold.Load()
	return f.Store.View(ctx, r, func(s storage.Snapshot) error {
		if hold != nil {
			<-*hold // s is older than what is written meanwhile
		}
		return read(s)
	})
}

// Unknown names that are asked for at once cost one look, and what a failed look can't tell isn't told.
func TestDirectory_OneLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := storage.NewRegistry()
		cmds := tenancy.Define(reg)
		store := &flaky{Store: mem.New(mem.Options{Registry: reg})}
		dir := tenancy.New(tenancy.Options{Store: store, Commands: cmds})
		defer dir.Close()
		synctest.Wait()
		hold := make(chan struct{})
		store.hold.Store(&hold)
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				_, err := dir.Authenticate(t.Context(), fmt.Sprintf("aos_%d", i%20), tenancy.Source{IP: fmt.Sprint(i)})
				if !fault.Is(err, fault.Unauthorized) {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		store.hold.Store(nil)
		close(hold)
		wg.Wait()
		if n := store.views.Load(); n > 2 {
			t.Fatalf("%d looks", n)
		}
		store.fail.Store(true)
		_, err := dir.Authenticate(t.Context(), "aos_x", tenancy.Source{IP: "x"})
		if !fault.Is(err, fault.Unavailable) {
			t.Fatalf("got %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		store.hold.Store(ptr(make(chan struct{})))
		_, err = dir.Authenticate(gone, "aos_x", tenancy.Source{IP: "x"})
		if !fault.Is(err, fault.Timeout) || !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		close(*store.hold.Load())
	})
}

// The mirror ends up equal to the store when it's read amid changes, and after a jump.
func TestDirectory_ReadAmidChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := storage.NewRegistry()
		cmds := tenancy.Define(reg)
		store := &watched{flaky: flaky{Store: mem.New(mem.Options{Registry: reg})}}
		hold := make(chan struct{})
		store.hold.Store(&hold)
		dir := tenancy.New(tenancy.Options{Store: store, Commands: cmds})
		defer dir.Close()
		synctest.Wait()
		_, _, err := dir.EnsureTenant(t.Context(), tenancy.TenantCreate{ID: "tnt_a"})
		if err != nil {
			t.Fatal(err)
		}
		secret, hash := tenancy.NewSecret()
		if _, _, err := dir.EnsureKey(t.Context(), "tnt_a", tenancy.KeyCreate{PrincipalID: "usr_a"}, hash); err != nil {
			t.Fatal(err)
		}
		store.hold.Store(nil)
		close(hold)
		synctest.Wait()
		for range 3 {
			store.fail.Store(true) // memory alone
			if _, err := dir.Authenticate(t.Context(), secret, tenancy.Source{}); err != nil {
				t.Fatal(err)
			}
			store.fail.Store(false)
			store.watcher.Jumped(0)
			synctest.Wait()
		}
	})
}

type watched struct {
	flaky
	watcher storage.Watcher
}

func (w *watched) Watch(prefix string, watcher storage.Watcher) func() {
	w.watcher = watcher
	return w.flaky.Watch(prefix, watcher)
}

func TestDirectory_Bootstrap(t *testing.T) {
	h := newHouse(t)
	before := h.store.Status().Applied
	_, hash := tenancy.NewSecret()
	created, _, err := h.dir.Bootstrap(h.ctx, tenancy.TenantCreate{ID: "tnt_c"}, tenancy.KeyCreate{PrincipalID: "usr_x"}, hash)
	if h.ok(err); created {
		t.Fatal("a second first admin")
	}
	for range 2 {
		_, _, err = h.dir.EnsureTenant(h.ctx, tenancy.TenantCreate{ID: "tnt_b"})
		h.ok(err)
	}
	if after := h.store.Status().Applied; after != before {
		t.Fatalf("doing nothing took %d writes", after-before)
	}
	secret, hash := tenancy.NewSecret()
	for i := range 2 {
		created, _, err := h.dir.EnsureKey(h.ctx, "tnt_b", tenancy.KeyCreate{PrincipalID: "usr_x"}, hash)
		if h.ok(err); created != (i == 0) {
			t.Fatalf("%d: created %v", i, created)
		}
	}
	h.auth(secret)
	if got := h.actions(""); !slices.Equal(got, []string{"platform.bootstrap"}) {
		t.Fatalf("platform's chain: %v", got)
	}
}

func BenchmarkDirectory_Authenticate(b *testing.B) {
	h := newHouse(b)
	k := h.key(h.admin, "tnt_b", tenancy.KeyCreate{})
	src := tenancy.Source{IP: "192.0.2.1"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.dir.Authenticate(h.ctx, k.Secret, src); err != nil {
			b.Fatal(err)
		}
	}
}
