"""Tests of the rules: values in, values out; no loop, no network, no clock."""
