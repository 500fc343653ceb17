"""The report: what one run of one platform saw, did and told, as one page and as JSON."""
