// Package station is the line's side of the factory: it takes a unit from the
// nest to a confirmed identity. The fixture (package fixture) does what is done in
// the device, the link (package link) asks the server, the queue (package queue)
// keeps what the server could not be told; here is the order of the steps, what is
// tried again and what is a failure.
//
// A unit is PASS only when the server has its confirmation, QUEUED when the
// confirmation is safe on the station's disk, and FAIL in every other case, with a
// code, what to do, and who may do it.
package station
