"""Judging models: how many bits a held-out sample costs them (`likelihood`)."""
