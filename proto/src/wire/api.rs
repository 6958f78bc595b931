//! JSON for people: what the local API and `--json` show. Field names are a contract (DESIGN section 12).
