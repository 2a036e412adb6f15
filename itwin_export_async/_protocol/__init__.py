"""The services' wire contract: requests out, values in. No I/O."""
