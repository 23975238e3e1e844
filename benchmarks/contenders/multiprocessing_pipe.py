"""``multiprocessing``: a Process and a Pipe a task."""

import multiprocessing
import process_and_pipe
from multiprocessing import connection

process_and_pipe.run(multiprocessing, connection)
