/* postgres_test: the specs of the PostgreSQL driver, one after another. */
#include "db/postgres_support.h"

int main(void) {
  open_specs();
  query_specs();
  type_specs();
  cache_specs();
  cancel_specs();
  fake_specs();
  end_specs();
  return check_done();
}
