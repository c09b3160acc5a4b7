from .estimate import CostPlan as CostPlan
from .estimate import expected as expected
from .told import as_table as as_table
from .told import line as line
