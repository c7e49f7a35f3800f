package fault

import "slices"

// table holds every refusal in order of codes. Each area keeps its entries and
// constants in a file of its own, in blocks of a thousand.
var table = slices.SortedFunc(slices.Values(slices.Concat(
	requestEntries, enrollEntries, authorityEntries, statusEntries,
	accessEntries, ledgerEntries, systemEntries, factoryEntries, attestEntries,
)), func(a, b Entry) int { return int(a.Code) - int(b.Code) })
