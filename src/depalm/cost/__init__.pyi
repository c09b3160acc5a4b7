from .estimate import Cost as Cost
from .estimate import CostPlan as CostPlan
from .estimate import expected as expected
from .requests import megabytes as megabytes
from .requests import minutes as minutes
from .told import as_table as as_table
from .told import line as line
