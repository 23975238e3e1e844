"""``billiard``: a Process and a Pipe a task."""

import billiard
import process_and_pipe
from billiard import connection

process_and_pipe.run(billiard, connection)
