"""What is done in an incident: one action at a time, looked at before and after."""
