// Package route decides which backend a call goes to. The decision is a pure function of the request, the tenant's
// entitlements, the configured tiers, what the backends serve, and their health; it explains itself, so that models:explain
// prints what a call would do. Health is what calls have shown: a breaker for each backend, its Retry-After, and how long
// its models take.
//
// Room: Stack B. It imports model, tenancy and internal/….
package route
