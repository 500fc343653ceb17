"""Telling people: messages, their delivery, and Airflow's callbacks."""
