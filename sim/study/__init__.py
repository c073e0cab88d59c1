"""Many runs and one answer: compare, sweep, size, plan, need, studies; the result store."""
