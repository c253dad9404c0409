"""Many runs: planned, packed, trained in processes of their own, recorded."""
