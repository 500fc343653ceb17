"""What there is and how much of it is in use, measured once a day: one module per source."""
