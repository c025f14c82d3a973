"""One page that shows what runs did: `runs` reads them, the modules named for sections say what they show,
`figures` draws it, `page` writes it.
"""
