"""For the test run's own Prefect server: no garbage collector, which can stop it for a minute.

With SQLite, collecting what is left of a statement that found the database busy waits, on the
server's only event loop, for a statement that waits for that loop. Prefect 3.8.8; see
`prefect_api.CALL_TIMEOUT` for how the package gets over it.
"""

import gc

gc.disable()
