from .estimate import CostPlan as CostPlan
from .told import as_table as as_table
from .told import line as line
