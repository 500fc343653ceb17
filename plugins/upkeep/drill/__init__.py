"""Recovery, rehearsed: a backup restored, a primary lost, an application's Pods lost; timed, judged, put back."""
