"""Settings: what may be set (`settings`), read from YAML (`load`); how bad input is told (`mistakes`, `explain`)."""
