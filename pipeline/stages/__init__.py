"""The stages, one function each: what it depends on, what it does, what it leaves.

Each stage first asks for the one before it, then compares its inputs with its receipt, and works only where they
differ. Rooms do the work; here it is put together with receipts, tracking and a few lines for the terminal. Heavy
imports (torch, timm and MLflow take seconds each) stand inside the functions: a stage with nothing to do needs none.
"""
