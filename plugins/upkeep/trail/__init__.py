"""Proof that what the ledger says was done is what was written then."""
