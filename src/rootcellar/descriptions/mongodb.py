"""MongoDB."""

from __future__ import annotations

from rootcellar.descriptions.description import PLACEHOLDER, Advice, BackendDescription, Project, Service, Variable

MONGODB = BackendDescription(
    name="mongodb",
    title="MongoDB",
    schemes=("mongodb",),
    synonyms=("mongo",),
    store="rootcellar.stores.mongodb",
    driver="pymongo",
    extra="mongodb",
    variables=("rootcellar.configuration.variables:MongoVariables",),
    prefixes=("MONGODB_",),
    url_variables=frozenset(
        {
            "MONGODB_HOST",
            "MONGODB_PORT",
            "MONGODB_USER",
            "MONGODB_PASSWORD",
            "MONGODB_DB",
            "MONGODB_REPLICA_SET",
            "MONGODB_AUTH_SOURCE",
            "MONGODB_TLS",
            "MONGODB_TLS_CA_CERTS",
            "MONGODB_TLS_CERTKEY",
        }
    ),
    url="rootcellar.configuration.urls:mongodb",
    settings="rootcellar.configuration.celery_settings:mongodb_settings",
    setting_prefixes=("mongodb_",),
    password=("mongodb", "MONGODB_PASSWORD"),
    checks="rootcellar.checks.mongodb",
    findings="rootcellar.checks.register.mongodb",
    page="docs/mongodb.md",
    advice=Advice(
        runs={"mongodb": "MongoDB"},
        lasting="Results must last, and MongoDB runs already: it keeps them on disk, and `rootcellar history` reads "
        "them.",
        running="MongoDB runs already: results need no other server, and last.",
        cautions=("Tested against a server that speaks MongoDB's protocol, not against MongoDB itself.",),
    ),
    project=Project(
        kept="in MongoDB",
        variables=(
            Variable("MONGODB_HOST", "localhost", "MongoDB"),
            Variable("MONGODB_PORT", "27017"),
            Variable("MONGODB_DB", "celery_results"),
            Variable("MONGODB_USER", "celery"),
            Variable("MONGODB_PASSWORD", PLACEHOLDER, is_secret=True),
            Variable("MONGODB_AUTH_SOURCE", "admin", "the database that knows the user"),
        ),
        tls=(
            Variable(
                "MONGODB_TLS", "true", "TLS, and everything is verified; MONGODB_TLS_CA_CERTS=FILE for a CA of your own"
            ),
        ),
        service=Service(
            "mongodb",
            "MongoDB",
            note="The user of `.env` is MongoDB's administrator. Make one with the role `readWrite` on the database "
            "of the results.",
        ),
    ),
)
