"""`python -m perago_worker` is `perago-worker`."""

from perago_worker.cli import main

main()
