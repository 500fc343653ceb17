"""A whole platform of real servers on loopback, for the demo, the tests and the benches."""
