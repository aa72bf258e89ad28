/* SPDX-License-Identifier: MIT */
#include "inspect_json.h"

#include "groups.h"
#include "output.h"

#include <string.h>

static json_t *text_of(const char *text)
{
    return json_text(text, strlen(text));
}

static json_t *item_json(const gqmm_file *file, const gqmm_meta *m, uint64_t i)
{
    const char *text;
    size_t n;
    int64_t whole;
    double real;

    if (m->item_kind == GQMM_META_STRING && gqmm_meta_string(file, m, i, &text, &n))
        return json_text(text, n);
    if (m->item_kind == GQMM_META_FLOAT && gqmm_meta_float(file, m, i, &real))
        return json_ratio(real);
    if (!gqmm_meta_int(file, m, i, &whole))
        return json_null();
    return m->item_kind == GQMM_META_BOOL ? json_boolean(whole) : json_integer(whole);
}

/* Long arrays (vocabularies) are told by their length and first items. */
static json_t *value_json(const gqmm_file *file, const gqmm_meta *m)
{
    if (m->kind != GQMM_META_ARRAY)
        return item_json(file, m, 0);
    json_t *object = json_object(), *first = json_array();
    for (uint64_t i = 0; i < m->n && i < 16; i++)
        json_array_append_new(first, item_json(file, m, i));
    json_object_set_new(object, "items", json_integer((json_int_t)m->n));
    json_object_set_new(object, "first", first);
    return object;
}

static json_t *metadata_json(const gqmm_file *file)
{
    json_t *all = json_array();

    for (int64_t i = 0; i < gqmm_file_meta_count(file); i++) {
        const gqmm_meta *m = gqmm_file_meta_at(file, i);
        json_t *entry = json_object();

        json_object_set_new(entry, "key", text_of(m->key));
        json_object_set_new(entry, "value", value_json(file, m));
        json_array_append_new(all, entry);
    }
    return all;
}

static json_t *sum_json(const group_sum *s)
{
    json_t *object = json_object(), *types = json_array();

    for (int i = 0; i < s->n_types; i++)
        json_array_append_new(types, json_string(s->types[i]));
    json_object_set_new(object, "tensors", json_integer(s->n_tensors));
    json_object_set_new(object, "weights", s->n_packed ? json_null() : json_integer(s->n_weights));
    json_object_set_new(object, "bytes", json_integer(s->n_bytes));
    json_object_set_new(object, "bits_per_weight", json_ratio(group_bits(s)));
    json_object_set_new(object, "types", types);
    return object;
}

static json_t *tensor_json(const gqmm_tensor *t)
{
    json_t *object = json_object(), *shape = json_array();

    for (int32_t k = t->n_dims - 1; k >= 0; k--)
        json_array_append_new(shape, json_integer(t->dims[k]));
    json_object_set_new(object, "name", text_of(t->name));
    json_object_set_new(object, "type", text_of(t->type_name));
    json_object_set_new(object, "format", t->format ? json_string(t->format) : json_null());
    json_object_set_new(object, "shape", shape);
    json_object_set_new(object, "bytes", json_integer(t->n_bytes));
    json_object_set_new(object, "offset", json_integer((json_int_t)t->offset));
    json_object_set_new(object, "group", json_string(group_key(group_of(t->name))));
    return object;
}

static json_t *string_json(const gqmm_file *file, const char *key)
{
    const gqmm_meta *m = gqmm_file_meta(file, key);
    const char *text;
    size_t n;

    return m && gqmm_meta_string(file, m, 0, &text, &n) ? json_text(text, n) : json_null();
}

json_t *inspect_json(const gqmm_file *file, const char *path, bool tensors)
{
    group_sum sums[N_GROUPS] = {{0}};
    json_t *object = json_object(), *groups = json_object(), *list = json_array();

    for (int64_t i = 0; i < gqmm_file_tensor_count(file); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(file, i);

        group_add(&sums[group_of(t->name)], t);
        if (tensors)
            json_array_append_new(list, tensor_json(t));
    }
    for (int g = 0; g < N_GROUPS; g++)
        if (sums[g].n_tensors)
            json_object_set_new(groups, group_key(g), sum_json(&sums[g]));
    const group_sum all = group_total(sums);
    json_object_set_new(object, "file", text_of(path));
    json_object_set_new(object, "kind", json_string(gqmm_file_kind(file)));
    json_object_set_new(object, "version", json_integer(gqmm_file_version(file)));
    json_object_set_new(object, "bytes", json_integer((json_int_t)gqmm_file_size(file)));
    json_object_set_new(object, "architecture", string_json(file, "general.architecture"));
    json_object_set_new(object, "name", string_json(file, "general.name"));
    json_object_set_new(object, "total", sum_json(&all));
    json_object_set_new(object, "groups", groups);
    json_object_set_new(object, "metadata", metadata_json(file));
    if (tensors)
        json_object_set_new(object, "tensors", list);
    else
        json_decref(list);
    return object;
}
