package chain

// Remembered returns how much a Verifier holds.
func (v *Verifier) Remembered() (issuers, leaves, nodes int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.issuers.order.Len(), v.leaves.order.Len(), v.nodes.order.Len()
}

// Canonical is canonicalName's first result.
func Canonical(der []byte) string {
	name, _, _ := canonicalName(der)
	return name
}
