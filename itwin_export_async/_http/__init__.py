"""One authorized, rate-limited, retried request."""
