"""
Stand-ins for PagerDuty and Slack: real TLS servers that speak their wire formats, keep state, refuse what the real
ones refuse, misbehave on request, and show people what arrived. The two services cannot be run locally, so these are
doubles; where their behaviour was taken from is written beside it.
"""
