"""Do claims of the papers hold?"""
