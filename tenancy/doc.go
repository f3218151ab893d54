// Package tenancy knows who asks and what they may do: tenants, principals, roles, scopes and API keys. Its children count
// (quota), remember (audit) and clear away what has ended (sweep).
//
// Room: who/quota. It imports internal/…, storage and negotiation. Every function that reads or writes a tenant's data
// takes the tenant as an argument; what belongs to another tenant does not exist. DESIGN.md tells why it's done so.
package tenancy
