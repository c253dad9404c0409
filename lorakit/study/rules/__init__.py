"""The rules of the claims, one module a chapter, each fixed before its records were looked at."""
