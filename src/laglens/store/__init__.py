"""The only package that reads and writes artifacts.

Datasets and cubes are zarr v3 stores packed into one deterministic ``.zarr.zip``; weights are safetensors with
a JSON card; tables are CSV. Every file appears under its name complete and durable, or not at all.
"""

from laglens.store.files import write_bytes as write_bytes
from laglens.store.files import write_json as write_json
from laglens.store.images import read_image as read_image
from laglens.store.stream import Awaited as Awaited
from laglens.store.stream import TreeWriter as TreeWriter
from laglens.store.stream import tree_writer as tree_writer
from laglens.store.tables import read_table as read_table
from laglens.store.tables import write_table as write_table
from laglens.store.trees import opened_tree as opened_tree
from laglens.store.trees import read_dataset as read_dataset
from laglens.store.trees import read_tree as read_tree
from laglens.store.trees import write_dataset as write_dataset
from laglens.store.trees import write_tree as write_tree
from laglens.store.weights import read_card as read_card
from laglens.store.weights import read_weights as read_weights
from laglens.store.weights import write_weights as write_weights
