"""A table as a page of HTML, without scripts or outside files."""

HTML_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; margin: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: 1.15rem; font-weight: 600; padding-bottom: .6rem; }
th, td { padding: .35rem .8rem; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; border-bottom: 2px solid #1f2328; }
td { border-bottom: 1px solid #d8dee4; }
.name { text-align: left; }
.whole { white-space: nowrap; }
tbody tr:hover { background: #f6f8fa; }
ul { max-width: 60rem; padding-left: 1.1rem; color: #59636e; font-size: .85rem; }
""".strip()
HTML_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{table}
<ul>
{notes}
</ul>
</body>
</html>
"""
HTML_TABLE = """<table>
<caption>{title}</caption>
<thead><tr>{header}</tr></thead>
<tbody>
{rows}
</tbody>
</table>"""
