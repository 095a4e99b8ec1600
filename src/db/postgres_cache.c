/*
** postgres_cache: the prepared statements of one connection, by text and parameter types, least recently used out first.
**
** 1. A plan is in a bucket and in `recent`, or in `dropped`, or in the hands of who took it.
** 2. The server has a plan's name for certain only once `prepared`; a dropped one it may have.
** 3. A name is never used twice on a connection, so that a late DEALLOCATE cannot hit a newer plan.
** 4. At most `limit` plans are kept and about as many dropped: in a long transaction, where none may be closed at the server (a
**    failing DEALLOCATE would abort it), new statements go unprepared from then on (cache_full).
**
** Sends nothing: postgres_query.c does.
*/
#include "postgres.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cache_init(struct cache *cache, int limit) {
  cache->limit = limit;
  list_init(&cache->recent);
  list_init(&cache->dropped);
}

void plan_free(struct plan *plan) { free(plan); }

static void list_of_plans_free(struct list *list) {
  for (struct list *link; (link = list_shift(list));) plan_free(CONTAINER(link, struct plan, recent));
}

void cache_clear(struct cache *cache) {
  list_of_plans_free(&cache->recent);
  list_of_plans_free(&cache->dropped);
  if (cache->buckets) memset(cache->buckets, 0, (cache->mask + 1) * sizeof *cache->buckets);
  cache->count = cache->ndropped = 0;
}

void cache_free(struct cache *cache) {
  cache_clear(cache);
  free(cache->buckets);
  cache->buckets = NULL;
}

static uint64_t hash_mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

static uint64_t hash_bytes(uint64_t hash, const char *bytes, size_t len) {
  uint64_t word;
  for (; len >= sizeof word; bytes += sizeof word, len -= sizeof word) {
    memcpy(&word, bytes, sizeof word);
    hash = hash_mix(hash, word);
  }
  word = len;
  for (size_t i = 0; i < len; i++) word = word << 8 | (unsigned char)bytes[i];
  return hash_mix(hash, word);
}

uint64_t cache_hash(const char *sql, size_t len, const Oid *oids, int noids) {
  uint64_t hash = hash_bytes(len, sql, len);
  for (int i = 0; i < noids; i++) hash = hash_mix(hash, oids[i]);
  return hash ^ hash >> 32;
}

static bool plan_is(const struct plan *plan, const char *sql, size_t len, const Oid *oids, int noids) {
  return plan->len == len && plan->noids == noids && memcmp(plan->sql, sql, len) == 0 &&
         (noids == 0 || memcmp(plan->oids, oids, (size_t)noids * sizeof *oids) == 0);
}

struct plan *cache_find(struct cache *cache, const char *sql, size_t len, const Oid *oids, int noids, uint64_t hash) {
  if (!cache->buckets) return NULL;
  struct plan *plan = cache->buckets[hash & cache->mask];
  while (plan && (plan->hash != hash || !plan_is(plan, sql, len, oids, noids))) plan = plan->next;
  if (plan && cache->recent.next != &plan->recent) {
    list_remove(&plan->recent);
    list_prepend(&cache->recent, &plan->recent);
  }
  return plan;
}

static bool cache_begin(struct cache *cache) {
  unsigned size = 16;
  while (size < 2u * (unsigned)cache->limit && size < 1u << 20) size *= 2;
  cache->buckets = calloc(size, sizeof *cache->buckets);
  cache->mask = size - 1;
  return cache->buckets != NULL;
}

static struct plan *plan_create(const char *sql, size_t len, const Oid *oids, int noids) {
  size_t types = (size_t)noids * sizeof *oids;
  struct plan *plan = malloc(sizeof *plan + types + len + 1);
  if (!plan) return NULL;
  memset(plan, 0, sizeof *plan);
  plan->oids = (Oid *)(void *)(plan + 1);
  plan->sql = (char *)(plan + 1) + types;
  if (noids > 0) memcpy(plan->oids, oids, types);
  memcpy(plan->sql, sql, len);
  plan->sql[len] = '\0';
  plan->noids = noids;
  plan->len = len;
  list_init(&plan->recent);
  return plan;
}

static void cache_unlink(struct cache *cache, struct plan *plan) {
  INSIST(!list_empty(&plan->recent));
  struct plan **at = &cache->buckets[plan->hash & cache->mask];
  while (*at != plan) {
    INSIST(*at);
    at = &(*at)->next;
  }
  *at = plan->next;
  list_remove(&plan->recent);
  cache->count--;
}

struct plan *cache_add(struct cache *cache, const char *sql, size_t len, const Oid *oids, int noids, uint64_t hash) {
  INSIST(cache->limit > 0);
  if (!cache->buckets && !cache_begin(cache)) return NULL;
  struct plan *plan = plan_create(sql, len, oids, noids);
  if (!plan) return NULL;
  if (cache->count >= cache->limit) cache_drop(cache, CONTAINER(cache->recent.prev, struct plan, recent));
  plan->hash = hash;
  plan->next = cache->buckets[hash & cache->mask];
  cache->buckets[hash & cache->mask] = plan;
  list_prepend(&cache->recent, &plan->recent);
  cache->count++;
  return plan;
}

void cache_name(struct cache *cache, struct plan *plan, uint64_t serial) {
  INSIST(!plan->prepared);
  plan->serial = serial;
  snprintf(plan->name, sizeof plan->name, "p%" PRIu64, ++cache->names);
}

struct plan *cache_replace(struct cache *cache, struct plan *old) {
  cache_drop(cache, old);
  return cache_add(cache, old->sql, old->len, old->oids, old->noids, old->hash);
}

void cache_lost(struct cache *cache) {
  list_of_plans_free(&cache->dropped);
  cache->ndropped = 0;
  LIST_EACH(link, &cache->recent) CONTAINER(link, struct plan, recent)->prepared = false;
}

bool cache_full(const struct cache *cache) { return cache->ndropped > cache->limit; }

void cache_forget(struct cache *cache, struct plan *plan) {
  cache_unlink(cache, plan);
  plan_free(plan);
}

void cache_drop(struct cache *cache, struct plan *plan) {
  cache_unlink(cache, plan);
  list_append(&cache->dropped, &plan->recent);
  cache->ndropped++;
}

struct plan *cache_dropped(struct cache *cache) {
  struct list *link = list_shift(&cache->dropped);
  if (!link) return NULL;
  cache->ndropped--;
  return CONTAINER(link, struct plan, recent);
}
