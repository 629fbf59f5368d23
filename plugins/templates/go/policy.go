// Keys by tenant: each has responses of its own, and without a tenant nothing is shared.
package main

import (
	"holm"
	"holm/input"
)

// The operator's configuration.
type perTenant struct {
	// The header field that names the tenant.
	tenantHeader string
}

func init() { holm.Serve(&perTenant{}) }

func main() {}

func (policy *perTenant) Configure(table *holm.Table) error {
	policy.tenantHeader = table.Text("tenant_header", "x-tenant")
	return nil
}

func (policy *perTenant) Manifest() holm.Manifest {
	reads := []input.Input{input.Header(policy.tenantHeader), input.Authority(), input.Path(), input.QueryAll()}
	return holm.Manifest{Name: "{{name}}", Version: "0.1.0", Reads: holm.Reads{Key: reads}}
}

// Derive is given the values in the order of the manifest.
func (policy *perTenant) Derive(values holm.Values) (holm.Verdict, error) {
	tenant, _ := values.Bytes(0)
	if len(tenant) == 0 {
		return holm.Bypass("no tenant"), nil
	}
	authority, _ := values.Bytes(1)
	path, _ := values.Bytes(2)
	return holm.Lookup{holm.Lower(tenant), authority, path, values.Slot(3)}, nil
}
