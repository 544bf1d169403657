from fedhello.methods import METHODS


def test_the_table_of_methods_is_complete():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.paper
        assert method.summary
        assert method.options()  # every option has a default
