"""The page: how every platform is, read from the ledger alone, behind Airflow's login."""
