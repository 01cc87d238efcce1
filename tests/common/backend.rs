//! The part of `Backend` that test stores over another store leave unchanged.

/// Implements the methods of `Backend` that neither wait nor fail by those of a field.
macro_rules! delegate_to {
    ($field:tt) => {
        fn bump_now(&self, names: &tower_response_cache::__private::Namespaces) {
            self.$field.bump_now(names);
        }

        fn life(
            &self,
            stamp: &tower_response_cache::__private::Stamp,
            names: &tower_response_cache::__private::Namespaces,
        ) -> tower_response_cache::__private::Validity {
            self.$field.life(stamp, names)
        }

        fn context(&self) -> &tower_response_cache::__private::Context {
            self.$field.context()
        }

        fn usage(&self) -> tower_response_cache::__private::Usage {
            self.$field.usage()
        }
    };
}

pub(crate) use delegate_to;
