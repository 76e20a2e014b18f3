"""Judging models: how many bits a held-out sample costs them (`likelihood`), and how far what they make up is
from real sounds (`distances`)."""
