from .errors import LaglensError as LaglensError
