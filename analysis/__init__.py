"""Tables and figures from what results/ holds. Nothing here trains, and no number is typed in by hand."""
