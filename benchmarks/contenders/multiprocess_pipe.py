"""``multiprocess``: a Process and a Pipe a task."""

import multiprocess
import process_and_pipe
from multiprocess import connection

process_and_pipe.run(multiprocess, connection)
