"""Data contracts: which rows of a canonical table are good, and what the table as a whole must
keep.

A contract is a file ``data_contracts/<table>.odcs.yaml`` in the Open Data Contract Standard, the
one source of all rules. One translator makes two things of it: Polars expressions that are true
where a row is wrong (they split good rows from quarantine, on any number of rows) and a Great
Expectations suite (it verifies anew what was kept). Rules may also name columns that are not in the
table: ``samples_admit_time`` and the like come through the contract's relationships, and its
``computedColumns`` are SQL over both.

In the order in which they build on each other: ``checks`` (results and their states),
``expectations`` (the types of rules), ``model`` (a contract), ``odcs`` (reading one), ``row_rules``
and ``suites`` (its two translations), ``shape`` and ``view`` (a table as rules see it),
``quarantine_csv``, ``split``, ``verify``, ``context``, ``distribution`` and ``changes`` (against
the last snapshot), ``plausibility/``, and ``validation``, which does all of it to one table.

    python -m m3h_pipeline.contracts        writes data_contracts/suites/*.json anew
"""
