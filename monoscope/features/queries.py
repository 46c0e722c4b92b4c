"""The questions that an atlas puts to its tables, in DuckDB's SQL; what users type is a parameter.

Every query starts from `known`: the features table with a human's labels, given as the parameters
$human_latents and $human_texts, put in front of the rules' labels.
"""

from __future__ import annotations

KNOWN = """
WITH human AS (
    SELECT unnest($human_latents::BIGINT[]) AS latent, unnest($human_texts::VARCHAR[]) AS text
), known AS (
    SELECT features.* EXCLUDE (label, label_method, label_f1, label_auc, label_base),
        coalesce(human.text, features.label) AS label,
        features.label AS rule_label,
        features.label_method AS rule_method,
        features.label_auc AS reads,
        CASE WHEN human.text IS NULL THEN features.label_method ELSE 'human' END AS label_method,
        CASE WHEN human.text IS NULL THEN label_f1 END AS label_f1,
        CASE WHEN human.text IS NULL THEN label_auc END AS label_auc,
        CASE WHEN human.text IS NULL THEN label_base END AS label_base
    FROM features LEFT JOIN human USING (latent)
)"""

# interest = quality · commonness · variety · evidence · words, each from 0 to 1:
#   quality     how far the label's held-out F1 beats its base, or a language model's label's AUC
#               beats ½, out of what it could; 1 for a human's label; 0.05 without a measured
#               label, so that an unlabelled atlas still has an order
#   commonness  exp(−(log10 density + 3)² / 2): highest where one token in a thousand fires
#   variety     different tokens among the top contexts, up to 4 of them: below 1, a token detector
#   evidence    top contexts found, of the 20 kept
#   words       over the top contexts, mean of min(1, 2/n) where the token is a word of four letters
#               or more and n latents have it among theirs; 0 elsewhere. A reader learns little from
#               a feature of commas, of word beginnings, or of a word that many others share
ROWS = f"""{KNOWN}, tops AS (
    SELECT latent, lower(trim(token)) AS token FROM examples WHERE kind = 'top'
), owners AS (
    SELECT token, count(DISTINCT latent) AS n FROM tops GROUP BY token
), top AS (
    SELECT latent, count(*) AS n_top, count(DISTINCT token) AS n_tokens,
        avg(CASE WHEN regexp_matches(token, '^\\pL{{4,}}$') THEN least(2.0 / n, 1.0) ELSE 0.0 END)
            AS words
    FROM tops JOIN owners USING (token) GROUP BY latent
), listed AS (
    SELECT latent, label, label_method, label_f1, label_auc, n_active, density, hist,
        known.max AS peak,
        CASE WHEN n_active = 0 THEN 0.0 ELSE
            (CASE WHEN label_method = 'human' THEN 1.0
                  WHEN label_method = 'llm' THEN greatest(2 * coalesce(label_auc, 0.5) - 1, 0.0)
                  WHEN label_f1 IS NULL THEN 0.05
                  ELSE greatest(label_f1 - coalesce(label_base, 0.0), 0.0) END)
            * exp(-0.5 * pow(log10(density) + 3.0, 2))
            * least(n_tokens / 4.0, 1.0)
            * least(n_top / 20.0, 1.0)
            * words
        END AS interest
    FROM known LEFT JOIN top USING (latent)
)"""

# Every sign that is no letter or digit turned into a space: words then start after one. (A pattern
# built from what was typed would be compiled anew for every row.)
_SPACED = "regexp_replace({}, '[^\\pL\\pN]', ' ', 'g')"

# A latent is hit where every word of the query is found in its label, in the tokens that its
# examples fire on, or in its top logits. Hits at the start of a word come before hits inside one,
# then labels before tokens before logits, then by number of such hits, label score and maximum.
SEARCH = f"""{ROWS}, words AS (SELECT unnest($words::VARCHAR[]) AS word), fields AS (
    SELECT latent, 3 AS tier, label AS text FROM listed WHERE label IS NOT NULL
    UNION ALL SELECT latent, 2, token FROM examples
    UNION ALL SELECT latent, 1, unnest(top_tokens) FROM features
), hits AS (
    SELECT latent, word, tier, text,
        $exact OR contains(' ' || {_SPACED.format("lower(text)")}, ' ' || {_SPACED.format("word")})
            AS starts
    FROM fields, words
    WHERE CASE WHEN $exact THEN tier < 3 AND text = word ELSE contains(lower(text), word) END
), graded AS (
    SELECT latent, word, (starts::INT, tier) AS grade, count(*) AS n_hits, min(text) AS text
    FROM hits GROUP BY latent, word, grade
), best AS (
    SELECT latent, word, max(grade) AS grade, arg_max(n_hits, grade) AS n_hits,
        arg_max(text, grade) AS matched
    FROM graded GROUP BY latent, word
), found AS (
    SELECT latent, min(grade) AS grade, sum(n_hits) AS n_hits,
        first(matched ORDER BY grade) AS matched
    FROM best GROUP BY latent HAVING count(*) = (SELECT count(DISTINCT word) FROM words)
)
SELECT listed.*, struct_extract_at(grade, 2) AS tier, matched
FROM found JOIN listed USING (latent)
ORDER BY grade DESC,
    (CASE WHEN tier = 3 THEN 1 ELSE n_hits END) DESC,
    coalesce(label_f1, CASE WHEN label_method = 'human' THEN 1.0 END, 0.0) DESC,
    peak DESC, latent
LIMIT $limit"""

LIST = """{rows}
SELECT *, NULL AS tier, NULL AS matched FROM listed
WHERE n_active > 0 OR NOT $alive_only
ORDER BY {column} {direction} NULLS LAST, latent
LIMIT $limit OFFSET $offset"""

SORTS = {
    "density": "density",
    "max": "peak",
    "label_score": "label_f1",
    "latent": "latent",
    "interest": "interest",
}


def list_query(sort: str, descending: bool) -> str:
    """The list query in one of the orders of SORTS."""
    direction = "DESC" if descending else "ASC"
    return LIST.format(rows=ROWS, column=SORTS[sort], direction=direction)


LABELS = f"{KNOWN} SELECT latent, label FROM known ORDER BY latent"
LABELS_OF = f"""{KNOWN} SELECT latent, label FROM known
WHERE latent IN (SELECT unnest($latents::BIGINT[])) ORDER BY latent"""

DENSE = "SELECT latent FROM features WHERE density > $share"

META_MASS = "SELECT latent, meta_mass FROM features ORDER BY latent"

TOKENS = """
SELECT latent, token FROM examples
WHERE kind = 'top' AND latent IN (SELECT unnest($latents::BIGINT[]))
GROUP BY latent, token ORDER BY latent, count(*) DESC, min(rank)"""

# {ids}: whole numbers, which prune the files better than a joined list of them does.
FEATURES = f"{KNOWN} SELECT * FROM known WHERE latent IN ({{ids}})"

EXAMPLES = """
SELECT latent, kind, band, rank, value, doc, pos, token, start, "values" FROM examples
WHERE latent IN ({ids}) ORDER BY latent, kind = 'top' DESC, band DESC, rank"""

CONTEXTS = """
SELECT doc, split, text, ends, meta FROM contexts
WHERE doc IN (SELECT unnest($docs::BIGINT[]))"""

NEIGHBOURS = f"""{KNOWN}
SELECT neighbours.latent, other, kind, rank, cosine, jaccard, pmi, n_both, known.label
FROM neighbours JOIN known ON known.latent = other
WHERE neighbours.latent IN ({{ids}}) ORDER BY neighbours.latent, kind DESC, rank"""
