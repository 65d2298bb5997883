"""One attempt, from lease to report: the steps, and what each of them needs."""
