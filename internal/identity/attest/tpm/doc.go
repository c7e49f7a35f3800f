// Package tpm judges what a TPM 2.0 shows: is this key in that chip, is the chip
// what its maker says, and does the device run what was released? It keeps no
// state, knows no database and no network; package enroll gives it what a device
// sent and what the server remembers.
//
// The order of proof is fixed and each step closes a hole that the others leave.
// First the claim (Trust.Check): the EK certificate leads to a maker that an
// operator pinned, or the EK is in an imported list; the EK was made from a
// standard form around exactly that key; the AK is a restricted signing key that
// cannot leave its TPM. Then TPM.Credential makes a secret that only this TPM
// opens, and only while it holds this very AK. With the secret comes the answer:
// AK.Certified holds a TPM2_Certify of the subject key against our nonce, AK.Quoted
// a quote of the firmware's registers against the product's policy. The first step
// that fails refuses, with a code of its own; docs/protocols/tpm.md lists them with
// their reasons and tests.
package tpm
